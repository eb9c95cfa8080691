"""Property tests here touch files: their time says nothing."""

from hypothesis import settings

settings.register_profile("files", deadline=None)
settings.load_profile("files")
