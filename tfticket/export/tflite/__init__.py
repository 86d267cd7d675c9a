"""LiteRT: conversion, its known faults, what runs sparse, and the check of the file.

For `export.litert` and `sparse_plan`. `known_faults` and `sparse_rules` hold for the
versions that they name.
"""
