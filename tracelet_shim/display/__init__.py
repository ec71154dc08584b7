"""What people see: lines and bars on a terminal, tables, and what must be taken out of a text before it is shown."""
