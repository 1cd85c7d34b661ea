"""How much keys and tenants may have: requests and tokens a minute, answers at once, and money a month."""
