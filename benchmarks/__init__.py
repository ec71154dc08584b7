"""Speed, side by side: `make bench`. See README.md."""
