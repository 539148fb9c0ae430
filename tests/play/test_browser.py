"""The page in a real browser: what a user does, and what is to be seen then."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from pages import contrast, link, run, slide, text, wait_for

import genarm
import genarm_kernels
from genarm.embedded import BASE, REWARDS

Opener = Callable[..., Any]


def test_a_slider_moved_changes_the_text(opened: Opener) -> None:
    page = opened()
    run(page, 1)
    base, before = text(page, "base"), text(page, "guided")
    assert base != before and before.startswith("I really enjoy")
    slide(page, "weight-0", 0.0)
    wait_for(page, 2)
    assert text(page, "guided") == text(page, "base") == base, "without weights both texts are the base's"
    slide(page, "weight-3", 1.5)
    wait_for(page, 3)
    assert text(page, "base") == base and text(page, "guided") not in (base, before)


def test_the_texts_are_those_of_generate(opened: Opener) -> None:
    page = opened("?prompt=On+a+free+day+I&weight.art=0&weight.risk=1.25&beta=0.5&seed=7&new_tokens=20")
    wait_for(page, 1)
    decoder = genarm.GuidedDecoder.from_pretrained(BASE, reward_models=dict(REWARDS))
    for side, weights in (("base", {}), ("guided", {"risk": 1.25})):
        seeds = genarm_kernels.row_seeds(7, 1)
        out = decoder.generate(
            ["On a free day I"], weights=weights, beta=0.5, seed=seeds, max_new_tokens=20, base_min_p=0.02
        )
        assert out.texts is not None
        assert text(page, side).removesuffix("</s>") == "On a free day I" + out.texts[0]


def test_each_token_has_the_colour_of_the_reward_that_is_chosen(opened: Opener) -> None:
    page = opened()
    run(page, 1)
    art = page.inner_html("#guided .text")
    titles = page.eval_on_selector_all("#guided .text span[title]", "all => all.map(one => one.title)")
    assert len(titles) > 3 and all(re.fullmatch(r"log π art [−+-][\d.]+, base [−+-][\d.]+ nats", one) for one in titles)
    page.click("#colour input")
    page.get_by_role("option", name="risk").click()
    page.wait_for_function("document.querySelector('.legend').innerText.includes('risk')")
    assert page.inner_html("#guided .text") != art
    assert "risk" in page.inner_text("#guided .figures")


def test_runs_are_points_of_the_plot_and_can_be_gone_back_to(opened: Opener) -> None:
    page = opened()
    run(page, 1)
    first = text(page, "guided")
    slide(page, "weight-0", 2.0)
    wait_for(page, 2)
    assert page.get_attribute("#plot figure", "aria-label").startswith("Plot of 2 runs, art to the right and science")
    page.click("#runs input")
    page.get_by_role("option", name="1: art 1").click()
    page.wait_for_function("document.querySelector('#status').innerText.startsWith('Run 1, with')")
    assert text(page, "guided") == first
    assert float(page.input_value("#weight-0 input[type=range]")) == 1.0


def test_a_link_brings_settings_and_texts_back(opened: Opener) -> None:
    page = opened()
    slide(page, "beta", 0.5)
    wait_for(page, 1)
    assert page.url == link(page) and "beta=0.5" in page.url
    other = opened("?" + link(page).partition("?")[2])
    wait_for(other, 1)
    assert text(other, "guided") == text(page, "guided")
    assert float(other.input_value("#beta input[type=range]")) == 0.5


def test_what_a_link_says_in_vain_is_said(opened: Opener) -> None:
    page = opened("?weight.kindness=1&beta=much&__theme=light")
    page.wait_for_selector("#status .note")
    said = page.inner_text("#status")
    assert "kindness" in said and "'much'" in said and "art, science, agreeableness, risk" in said


def test_an_example_is_taken_and_run(opened: Opener) -> None:
    page = opened()
    page.get_by_text("On a free day I").click()
    wait_for(page, 1)
    assert text(page, "guided").startswith("On a free day I")
    assert [float(page.input_value(f"#weight-{place} input[type=range]")) for place in range(4)] == [0, 0, 0, 1]


def test_a_chat_goes_on_from_the_answer_that_was_kept(opened: Opener) -> None:
    page = opened()
    page.get_by_label("Chat", exact=True).check()
    page.fill("#prompt textarea", "What do you like?")
    run(page, 1)
    answer = text(page, "guided").removesuffix("</s>").strip()
    page.get_by_role("button", name="Keep the guided answer").click()
    page.wait_for_function("document.querySelector('.turns').innerText.includes('What do you like?')")
    if answer:
        assert answer in page.inner_text(".turns")
    assert page.input_value("#prompt textarea") == ""
    page.fill("#prompt textarea", "And what else?")
    run(page, 2)
    assert "turns=" in link(page) and "What+do+you+like" in link(page)


def test_what_cannot_be_run_is_said_and_the_page_goes_on(opened: Opener) -> None:
    page = opened()
    page.fill("#prompt textarea", "  ")
    page.click("#run")
    page.wait_for_selector("#status .error")
    assert "prompt is empty" in page.inner_text("#status")
    page.fill("#prompt textarea", "I really enjoy")
    run(page, 1)


def test_a_text_is_no_part_of_the_page(opened: Opener) -> None:
    page = opened()
    page.fill("#prompt textarea", "<img src=x onerror=document.title='taken'> & so")
    run(page, 1)
    assert page.title() == "genarm play" and page.locator("#guided img").count() == 0
    assert "<img src=x" in text(page, "guided")


def test_two_pages_do_not_mix(opened: Opener) -> None:
    one, other = opened(), opened()
    slide(other, "weight-0", 0.0)
    wait_for(other, 1)
    run(one, 1)
    assert text(one, "guided") != text(other, "guided") == text(other, "base") == text(one, "base")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_telephone_and_words_stand_out_from_their_ground(opened: Opener, scheme: str) -> None:
    page = opened("?prompt=I+really+enjoy", width=390, height=844, scheme=scheme)
    wait_for(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for part in ("#guided .text", "#guided .figures", ".legend", "#status", "#plot svg text", "#weight-0 label"):
        assert contrast(page, part) >= 4.5, part
