"""LiteRT.js in a browser: files run side by side, their times and their answers.

For `export.compare_in_browser`, `tfticket try` and the page of the site.
"""
