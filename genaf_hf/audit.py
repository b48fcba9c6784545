"""What published cards import: an audit of a classifier."""

from genaf_hf.pipelines.audit import audit

__all__ = ["audit"]
