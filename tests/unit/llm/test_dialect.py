"""Which provider a host implies, and which model a node is asked for."""

from fastgw.config import schema
from fastgw.llm.dialect import CAPABILITIES, DEFAULT_MODELS, DIALECTS, KNOWN_HOSTS, ModelMap, provider_of


def test_known_hosts_imply_their_provider() -> None:
    assert KNOWN_HOSTS == {"api.openai.com": "openai", "api.deepseek.com": "deepseek"}
    assert provider_of("API.DeepSeek.com.") == "deepseek"
    assert provider_of("api.deepseek.com.evil.example") is None
    assert provider_of("10.0.0.7") is None


def test_default_maps_send_a_foreign_name_to_the_model_there_is() -> None:
    deepseek = ModelMap(DEFAULT_MODELS["deepseek"])
    assert deepseek.map("gpt-5") == "deepseek-flash"
    assert deepseek.map("deepseek-v4-pro") == "deepseek-v4-pro"
    assert not ModelMap(DEFAULT_MODELS["openai"])
    assert set(DEFAULT_MODELS) == set(DIALECTS)


def test_first_matching_pattern_decides() -> None:
    models = ModelMap({"gpt-4*": "four", "gpt-*": "any", "o?": "small"})
    assert [models.map(name) for name in ("gpt-4o", "gpt-5", "o3", "o30", "GPT-5")] == [
        "four",
        "any",
        "small",
        "o30",
        "GPT-5",
    ]


def test_exact_name_beats_a_pattern_before_it() -> None:
    models = ModelMap([("*", "any"), ("gpt-5", "five"), ("gpt-6", None), ("gpt-5", "too late")])
    assert [models.map(name) for name in ("gpt-5", "gpt-6", "gpt-7")] == ["five", "gpt-6", "any"]


def test_pattern_characters_of_other_tools_are_plain_text() -> None:
    models = ModelMap({"a.b": "dot", "[ab]*": "bracket"})
    assert [models.map(name) for name in ("a.b", "axb", "[ab]c", "ac", "a\nb")] == [
        "dot",
        "axb",
        "bracket",
        "ac",
        "a\nb",
    ]


def test_star_matches_line_ends_and_nothing() -> None:
    assert [ModelMap({"x*": "y"}).map(name) for name in ("x", "x\n", "yx")] == ["y", "y", "yx"]


def test_map_that_changes_nothing_is_false() -> None:
    assert not ModelMap()
    assert not ModelMap({"gpt-*": None})
    assert ModelMap({"gpt-*": "x"})
    assert repr(ModelMap({"a*": None, "*": "b"})) == "<ModelMap a* -> unchanged, * -> b>"


def test_memory_of_names_is_bounded() -> None:
    models = ModelMap({"*": "x"})
    for n in range(3 * ModelMap.MAX_CACHED):
        assert models.map(f"model-{n}") == "x"
    assert models.map("m" * 100_000) == "x"
    assert len(models._cache) <= ModelMap.MAX_CACHED
    assert max(map(len, models._cache)) <= ModelMap.MAX_CACHED_LENGTH


def test_hostile_name_is_matched_in_no_time() -> None:
    assert ModelMap({"****a": "x"}).map("b" * 100_000) == "b" * 100_000


def test_the_configuration_knows_the_dialects_and_their_capabilities() -> None:
    assert set(schema.PROVIDERS) == set(DIALECTS)
    assert tuple(schema.CAPABILITIES) == CAPABILITIES
