"""Edge-popup (arXiv 1911.13299): subnetworks of frozen random weights."""
