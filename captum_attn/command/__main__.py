"""``python -m captum_attn.command`` is the command ``captum-attn``."""

from captum_attn.command import app

if __name__ == "__main__":
    app(prog_name="captum-attn")
