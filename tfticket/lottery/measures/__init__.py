"""What is measured of tickets: overlap, movement, stability, robustness."""
