"""Secrets and who may see them: providers of secret values, and their removal from what is shown.

Never writes a secret anywhere and never puts one in an error. Leans on `errors` only.
Import from the submodules.
"""
