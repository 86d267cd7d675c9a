"""What is served: the function, its signatures and warm-up records."""
