"""Who may ask and how much: keys, tenants, and the record of what administrators did. Knows no HTTP."""
