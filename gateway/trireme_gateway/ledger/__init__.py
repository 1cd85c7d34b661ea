"""What was asked, by whom, and what it cost: one row for each request; and transcripts, where they are asked for."""
