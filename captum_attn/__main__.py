"""``python -m captum_attn`` is the command ``captum-attn``."""

from captum_attn.command import app

app(prog_name="captum-attn")
