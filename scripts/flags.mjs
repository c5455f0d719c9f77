/**
 * docs/flags.md and flags.zh.md, made from the flag tables. `node scripts/flags.mjs` checks that they are up to
 * date, `--write` writes them. Needs compiled TypeScript.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { COMMANDS } = await import('../packages/finetune/dist/cli/commands.js');

const MADE = '<!-- Made by `node scripts/flags.mjs --write` from the flag tables. Edit those. -->';
const WORDS = {
  en: {
    file: 'flags.md',
    head: `# Flags

The same texts as \`minicpm-finetune <command> --help\`. A recipe (\`train --recipe run.yaml\`) has the same keys without
dashes. A flag without a value means true; of a flag given twice the last counts. [中文](flags.zh.md)`,
    columns: ['flag', 'value', 'default', 'meaning'],
    required: 'required',
    idle: 'Accepted without effect',
    idleText: 'Flags of the official scripts that have nothing to set here.',
    stop: '.',
  },
  zh: {
    file: 'flags.zh.md',
    head: `# 参数

与 \`minicpm-finetune <命令> --help --lang zh\` 的文字相同。配置文件（\`train --recipe run.yaml\`）使用同样的键名，不带短横线。不带值的参数表示
true；同一参数给出两次时以后一次为准。[English](flags.md)`,
    columns: ['参数', '取值', '默认值', '含义'],
    required: '必填',
    idle: '接受但不起作用',
    idleText: '官方脚本有这些参数，这里无需设置。',
    stop: '。',
  },
};

/** Text as the cell of a table. */
const cell = (text) => text.replaceAll('|', '\\|').replaceAll('<', '\\<').replaceAll('*', '\\*');

function valueText(flag) {
  if (flag.kind === 'boolean') return ['true', 'false', ...(flag.choices ?? [])].join(', ');
  if (flag.choices !== undefined) return flag.choices.join(', ');
  const limits = [
    flag.min !== undefined && `≥ ${flag.min}`,
    flag.above !== undefined && `> ${flag.above}`,
    flag.max !== undefined && `≤ ${flag.max}`,
  ].filter(Boolean);
  return [flag.placeholder ?? flag.kind, ...limits].join(', ');
}

function defaultText(flag, language) {
  if (flag.required) return WORDS[language].required;
  if (flag.derived !== undefined) return flag.derived[language];
  return flag.default === null || flag.default === undefined ? '' : String(flag.default);
}

function table(flags, language) {
  const row = (cells) => `| ${cells.join(' | ')} |`;
  return [
    row(WORDS[language].columns),
    row(WORDS[language].columns.map(() => '---')),
    ...flags.map((flag) =>
      row([`\`--${flag.name}\``, cell(valueText(flag)), cell(defaultText(flag, language)), cell(flag.help[language])]),
    ),
  ].join('\n');
}

function section({ text, flags }, language) {
  const parts = [`## ${text.name}`, text.summary[language]];
  for (const [group, heading] of Object.entries(text.headings)) {
    const shown = flags.filter((flag) => flag.group === group && flag.notice === undefined);
    if (shown.length > 0) parts.push(`### ${text.name}: ${heading[language]}`, table(shown, language));
  }
  const idle = flags.filter((flag) => flag.notice !== undefined);
  if (idle.length > 0) {
    const { idle: title, idleText, stop } = WORDS[language];
    const lines = idle.map((flag) => `- \`--${flag.name}\`: ${flag.notice[language]}${stop}`);
    parts.push(`### ${text.name}: ${title}`, idleText, lines.join('\n'));
  }
  return parts.join('\n\n');
}

for (const [language, { file, head }] of Object.entries(WORDS)) {
  const path = join(root, 'docs', file);
  const wanted = `${[MADE, head, ...COMMANDS.map((command) => section(command, language))].join('\n\n')}\n`;
  if (process.argv.includes('--write')) writeFileSync(path, wanted);
  else if (!existsSync(path) || readFileSync(path, 'utf8') !== wanted) {
    console.error(`docs/${file}: the flags are not those of the commands. Run \`node scripts/flags.mjs --write\`.`);
    process.exitCode = 1;
  }
}
