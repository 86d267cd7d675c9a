"""Edge-popup (arXiv 1911.13299): subnetworks of frozen random weights.

`layers` has the popup layers, `model` and `twin` make models of them. The experiment
that compares densities and initialisers is `tfticket.lottery.PopupExperiment`.
"""
