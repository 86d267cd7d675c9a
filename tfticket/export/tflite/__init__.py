"""LiteRT: conversion, its known faults, and the check of what was written."""
