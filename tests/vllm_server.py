"""vLLM's server on a CPU, whose weights can be renewed: see the note on oneDNN in tests/vllm_training.py. Workers begin with this
file, too."""

import runpy

import vllm._custom_ops

vllm._custom_ops._supports_onednn = False

if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
