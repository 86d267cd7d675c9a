"""The function that is served: its signatures, preprocessing and warm-up records.

For `export.saved_model`.
"""
