"""Programs run in a process of their own, on arrays; nothing imports them."""
