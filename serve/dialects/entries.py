"""How a request asks for a fusion beside the model's name: by a plugin or by a server tool. Pure.

Source: the Fusion contract (OpenRouter's public documentation). Chat and responses share it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from models.catalog import names_panel
from models.errors import BadRequest
from models.messages import FUSION_TOOL, Effort, FusionOptions, Named, ServerTool, ToolChoice
from models.tools.options import DocumentsOptions, FetchOptions, SearchOptions
from serve.dialects.shape import AskedEffort, Row, Shape, effort_of

MAX_PANEL, MAX_TOOLS, MAX_TOOL_CALLS = 8, 8, 16

_Name = Annotated[str, Field(min_length=1, max_length=128)]


class _SearchTool(Shape):
    type: Literal["openrouter:web_search", "web_search"]
    parameters: SearchOptions = SearchOptions()


class _FetchTool(Shape):
    type: Literal["openrouter:web_fetch", "web_fetch"]
    parameters: FetchOptions = FetchOptions()


class _DocumentsTool(Shape):
    type: Literal["openrouter:documents", "documents"]
    parameters: DocumentsOptions = DocumentsOptions()


#: One tool of the panelists and the judge.
_InnerTool = Annotated[_SearchTool | _FetchTool | _DocumentsTool, Field(discriminator="type")]


class Thinking(Shape):
    """OpenRouter's form of effort: by name, or by a number of tokens."""

    effort: AskedEffort | None = None
    max_tokens: int | None = Field(None, ge=1)
    enabled: bool | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Thinking:
        if self.effort is not None and self.max_tokens is not None:
            raise ValueError("give effort or max_tokens, not both")
        return self

    @property
    def asked(self) -> Effort | None:
        """None: the model's own default."""
        if self.enabled is False:
            return "none"
        return self.effort if self.max_tokens is None else effort_of(self.max_tokens)


class _CacheControl(Shape):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class _Settings(Shape):
    """What plugin and tool have in common."""

    analysis_models: Row[_Name] | None = Field(None, min_length=1, max_length=MAX_PANEL)
    model: _Name | None = None
    max_tool_calls: int | None = Field(None, ge=1, le=MAX_TOOL_CALLS)
    tools: Row[_InnerTool] | None = Field(None, max_length=MAX_TOOLS)

    @field_validator("tools")
    @classmethod
    def _each_once(cls, tools: tuple[_InnerTool, ...] | None) -> tuple[_InnerTool, ...] | None:
        named = [_plain(tool) for tool in tools or ()]
        if twice := next((name for name in named if named.count(name) > 1), None):
            raise ValueError(f"'{twice}' is named twice")
        return tools


class FusionPlugin(_Settings):
    id: Literal["fusion"]
    enabled: bool = True
    preset: _Name | None = None


class _Parameters(_Settings):
    max_completion_tokens: int | None = Field(None, ge=1)
    reasoning: Thinking | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    cache_control: _CacheControl | None = None


class FusionTool(Shape):
    type: Literal["openrouter:fusion"]
    parameters: _Parameters = _Parameters()


class FusionChoice(Shape):
    """`tool_choice` that names the fusion."""

    type: Literal["openrouter:fusion"]


Plugins = Annotated[Row[FusionPlugin], Field(max_length=16)]


def options(
    plugins: tuple[FusionPlugin, ...] | None, tools: Iterable[object]
) -> FusionOptions | None:
    """What these say about a fusion. A tool's parameters win over the plugin's, which is only
    another way to write them. Raises BadRequest where one is named twice."""
    if plugins and len(plugins) > 1:
        raise BadRequest("The plugin 'fusion' is named twice.", param="plugins.1.id")
    plugin = plugins[0] if plugins else None
    places = [
        (index, tool) for index, tool in enumerate(tools or ()) if isinstance(tool, FusionTool)
    ]
    if len(places) > 1:
        place = f"tools.{places[1][0]}.type"
        raise BadRequest(f"The tool '{FUSION_TOOL}' is named twice.", param=place)
    if places:
        return _of_tool(places[0][1].parameters, plugin)
    return None if plugin is None else _of_plugin(plugin)


def runs(model: str, plugins: tuple[FusionPlugin, ...] | None) -> bool:
    """Whether a fusion runs whatever its models choose."""
    return names_panel(model) or any(plugin.enabled for plugin in plugins or ())


def chosen(choice: ToolChoice | None, known: set[str], *, fused: bool = False) -> ToolChoice | None:
    """This choice among the tools of these names; None where there are no tools to choose from.
    Raises BadRequest if it asks for one that is not there. A fusion that runs whatever is chosen
    is what `required` asks for."""
    if isinstance(choice, Named) and choice.name not in known:
        raise BadRequest(
            f"'tool_choice' names '{choice.name[:64]}', which 'tools' lacks.", param="tool_choice"
        )
    if choice == "required" and not known and not fused:
        raise BadRequest("'tool_choice' asks for a tool and 'tools' has none.", param="tool_choice")
    return choice if known else None


def _of_plugin(plugin: FusionPlugin) -> FusionOptions:
    return FusionOptions(
        entry="plugin",
        enabled=plugin.enabled,
        preset=plugin.preset,
        analysis_models=plugin.analysis_models or (),
        judge=plugin.model,
        max_tool_calls=plugin.max_tool_calls,
        tools=_tools(plugin.tools),
    )


def _of_tool(asked: _Parameters, plugin: FusionPlugin | None) -> FusionOptions:
    under = _of_plugin(plugin) if plugin and plugin.enabled else FusionOptions()
    return FusionOptions(
        entry="tool",
        preset=under.preset,
        analysis_models=asked.analysis_models or under.analysis_models,
        judge=asked.model or under.judge,
        max_tool_calls=asked.max_tool_calls or under.max_tool_calls,
        tools=under.tools if asked.tools is None else _tools(asked.tools),
        max_completion_tokens=asked.max_completion_tokens,
        temperature=asked.temperature,
        effort=asked.reasoning.asked if asked.reasoning else None,
        cache_ttl=asked.cache_control.ttl if asked.cache_control else None,
    )


def _tools(asked: tuple[_InnerTool, ...] | None) -> tuple[ServerTool, ...] | None:
    if asked is None:
        return None
    return tuple(
        ServerTool(_plain(tool), tool.parameters.model_dump(exclude_unset=True)) for tool in asked
    )


def _plain(tool: _InnerTool) -> str:
    return tool.type.removeprefix("openrouter:")
