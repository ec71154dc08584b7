"""What a run can be traced back to: the program, its code and machine, the CI job; and the secrets that are taken out."""
