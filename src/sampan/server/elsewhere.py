"""Fields that other servers, or other paths of this one, have: hints, and what must not be ignored."""

from sampan.server.fields import lacks

HINTS = frozenset(
    {
        "cache_prompt", "guided_decoding_backend", "guided_whitespace_pattern", "id_slot", "keep_alive",
        "kv_transfer_params", "models", "prediction", "provider", "return_progress", "route",
        "spaces_between_special_tokens", "timings_per_token", "transforms", "verbosity", "vllm_xargs",
    }
)  # fmt: skip
"""Of chat completions and completions, beside those of every endpoint."""

CONSTRAINTS = (
    lacks(
        "allowed_token_ids", "bad_words", "bad_words_ids", "chat_template", "custom_logit_processor",
        "documents", "dry_multiplier", "dynatemp_range", "ebnf", "epsilon_cutoff", "eta_cutoff",
        "include_stop_str_in_output", "logits_processors", "lora", "lora_path", "min_new_tokens",
        "min_tokens", "mirostat", "mirostat_mode", "n_probs", "no_stop_trim", "regex", "return_token_ids",
        "return_tokens_as_token_ids", "samplers", "stop_regex", "structural_tag", "top_a",
        "truncate_prompt_tokens", "use_beam_search", "xtc_probability",
    )
    | lacks("length_penalty", "tfs_z", "typical", "typical_p", neutral=(1,))
    | lacks("top_n_sigma", neutral=(-1, 0))
    | lacks("skip_special_tokens", "add_special_tokens", neutral=(True,))
    | lacks("repeat_penalty", why="repetition_penalty says it here", neutral=(1,))
    | lacks("n_predict", why="max_tokens says it here")
    | lacks("json_schema", why="response_format or structured_outputs says it here")
)  # fmt: skip
"""What would change the answer."""

SAMPLING = CONSTRAINTS | lacks(
    "allowed_tools", "chat_template_kwargs", "frequency_penalty", "grammar", "guided_choice",
    "guided_grammar", "guided_json", "guided_regex", "ignore_eos", "logit_bias", "max_reasoning_tokens",
    "min_p", "presence_penalty", "prompt_logprobs", "seed", "stop_token_ids", "structured_outputs",
) | lacks("n", "best_of", "repetition_penalty", neutral=(1,))  # fmt: skip
"""The same where chat completions' own extensions are not served either."""

CHAT = (
    lacks("add_generation_prompt", "include_reasoning", "separate_reasoning", neutral=(True,))
    | lacks("best_of", "continue_final_message", "echo", "mm_processor_kwargs", "moderation", "plugins")
    | lacks("audio", "image", "images", "files", why="this model reads and writes text only")
    | lacks("modalities", why="this model reads and writes text only", neutral=(["text"],))
    | lacks("functions", "function_call", why="tools and tool_choice say it here", neutral=([], "none"))
    | lacks("web_search_options", neutral=(False,))
    | lacks("reasoning", "thinking", why="reasoning_effort and max_reasoning_tokens say it here")
    | lacks("enable_thinking", why="chat_template_kwargs or reasoning_effort says it here", neutral=(None,))
    | lacks("thinking_budget", "thinking_budget_tokens", why="max_reasoning_tokens says it here")
    | lacks("input", why="it is a field of /v1/responses: messages says it here")
)
"""The same of a conversation."""
