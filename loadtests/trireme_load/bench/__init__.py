"""What the load generator can take, and whether other people's tools see the same."""
