"""The servers behind the gateway: what they serve, which one is asked, and what waits for them."""
