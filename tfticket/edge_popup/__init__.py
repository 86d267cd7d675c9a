"""Edge-popup (arXiv 1911.13299): trained scores choose among frozen random weights.

For supermasks. `layers` has the popup layers, `model` and `twin` make models of them,
and `topk_in_graph` selects inside a training step. The experiment that compares
densities and initializers is `tfticket.lottery.PopupExperiment`.
"""
