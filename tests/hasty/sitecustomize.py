"""Makes the waits of a Python process short, and writes down how long they should have been; put on its PYTHONPATH."""

import os
import time

sleep = time.sleep


def sleep_hastily(seconds: float) -> None:
    with open(os.environ["WAITS"], "a", encoding="utf-8") as file:
        file.write(f"{seconds}\n")
    sleep(seconds / 1000)


time.sleep = sleep_hastily
