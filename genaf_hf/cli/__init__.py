"""The command `genaf-hf`: its subcommands, their flags, help and files of settings, and how a command ends."""
