"""Bridges to the tools of others: one file for each tool. docs/bridges.md shows how each is used.

What a tool brings is imported in the functions that need it; where its classes are extended (`itda.bridges.saelens`),
when that file is imported.
"""
