"""The reference checkpoint: the generated tasks it knows, its tokenizer, its training and its evaluation."""
