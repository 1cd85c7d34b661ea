"""What operators use: the embedded server, its checks, and the `trireme` command."""
