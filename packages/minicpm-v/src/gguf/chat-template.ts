/**
 * The chat template of a GGUF file. llama.cpp gives it the conversation with a mark `<__media_…__>` for each picture; the
 * template puts around marks and turns what training put there, so that a prompt has the ids it was trained with.
 */
import type { ChatTemplate } from '@minicpm-finetune/processor';

const quoted = (text: string): string =>
  `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'").replaceAll('\n', '\\n')}'`;
const put = (text: string): string => (text === '' ? '' : `{{- ${quoted(text)} -}}`);

/** Jinja text. */
export function ggufChatTemplate(template: ChatTemplate): string {
  const { header, begin, beginWithSystem } = template;
  const system =
    header.system === null ? "{{- raise_exception('This model has no system turn.') -}}" : put(header.system);
  const first =
    begin === beginWithSystem
      ? put(begin)
      : `{%- if messages[0]['role'] == 'system' -%}${put(beginWithSystem)}{%- else -%}${put(begin)}{%- endif -%}`;
  return [
    ...(first === '' ? [] : [first]),
    '{%- set ns = namespace(image=0) -%}',
    '{%- for message in messages -%}',
    `{%- if message['role'] == 'system' -%}${system}`,
    `{%- elif message['role'] == 'user' -%}${put(header.user!)}`,
    `{%- else -%}${put(header.assistant!)}{%- endif -%}`,
    ...contentLines(template),
    put(template.endInHistory ? template.end + template.afterEnd : ''),
    '{%- endfor -%}',
    `{%- if add_generation_prompt -%}${put(header.assistant!)}${thought(template)}{%- endif -%}`,
  ]
    .filter((line) => line !== '')
    .join('\n');
}

/**
 * What an answer begins with in models that can think: no thought, as in training, unless the template's variable `think` is true. Not
 * `enable_thinking`, which llama.cpp sets to true unless asked.
 */
function thought({ thinking }: ChatTemplate): string {
  if (thinking === null) return '';
  return `{%- if think is defined and think -%}${put(thinking.asked)}{%- else -%}${put(thinking.empty)}{%- endif -%}`;
}

/** The text of a turn: a line of its own for every picture, with its number in the newer models. */
function contentLines({ strip, schema }: ChatTemplate): string[] {
  const content = strip ? "message['content'] | trim" : "message['content']";
  const numbered = schema === 'new';
  return [
    `{%- set pieces = (${content}).split('<__media_') -%}`,
    '{{- pieces[0] -}}',
    "{%- if pieces | length > 1 and pieces[0] != '' and not pieces[0].endswith('\\n') -%}{{- '\\n' -}}{%- endif -%}",
    '{%- for piece in pieces[1:] -%}',
    "{%- set parts = piece.split('>') -%}",
    ...(numbered ? ["{{- '<image_id>' ~ ns.image ~ '</image_id>' -}}", '{%- set ns.image = ns.image + 1 -%}'] : []),
    "{{- '<__media_' ~ parts[0] ~ '>' -}}",
    "{%- set rest = parts[1:] | join('>') -%}",
    "{%- if not rest.startswith('\\n') and not (loop.last and rest == '') -%}{{- '\\n' -}}{%- endif -%}",
    '{{- rest -}}',
    "{%- if not loop.last and rest != '' and not rest.endswith('\\n') -%}{{- '\\n' -}}{%- endif -%}",
    '{%- endfor -%}',
  ];
}
