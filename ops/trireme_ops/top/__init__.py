"""What servers do, live in a terminal."""
