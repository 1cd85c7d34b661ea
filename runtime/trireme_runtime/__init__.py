"""What the Triton models' `model.py` files call: contract, tokenizing, detokenizing, stopping and engines."""
