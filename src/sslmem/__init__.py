"""Audits self-supervised vision encoders for memorization of their training images (SSLMem).

Importing this package is cheap: nothing that needs torch is loaded from here. See ``sslmem.scoring``.
"""

__version__ = "0.1.0"
