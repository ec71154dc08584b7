"""What every room may use, and what knows no other room: texts, values and files."""
