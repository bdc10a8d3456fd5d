"""Who gets in, and what they did: accounts with roles, their tokens, and the audit log.

``registry`` is what others use, with ``roles`` and ``audit``; the package imports none of them by itself, because the
roles are known to many who need no hashes.
"""
