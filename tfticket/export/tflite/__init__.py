"""LiteRT: conversion, its known faults, and the check of the file that was written.

For `export.litert`. `known_faults` holds for the versions that it names.
"""
