"""The maze of Ambient Diffusion Policy, section 4: smooth plans, jagged plans, and what to mix."""
