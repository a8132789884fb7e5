"""Attention explanations, one method or family a file, all of them Captum attributions over one observed pass."""
