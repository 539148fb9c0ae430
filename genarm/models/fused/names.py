"""The architectures that the fused decoder runs, by transformers' names. `genarm info` reads them without torch."""

FAMILIES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
