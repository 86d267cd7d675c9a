"""What is measured of tickets: overlap, movement, stability, robustness, widths.

For analysis. Each measure is a function of masks and weights by name.
"""
