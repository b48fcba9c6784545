"""What is measured, how, and the report that holds it."""
