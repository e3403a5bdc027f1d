"""What MMa4CTR is compared with; see comp.py."""
