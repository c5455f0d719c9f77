/** Draws screens of a terminal and answered pictures as one SVG. */
import { cellsOf, type Row } from './terminal.js';

/** A small picture with the answer of a model below it. */
export interface Answered {
  /** Bytes of a PNG file. */
  readonly png: Uint8Array;
  readonly answer: string;
  readonly right: boolean;
}

export interface Drawing {
  /** Shown one after the other; the last one stays longest and is what viewers without animation show. */
  readonly screens: readonly (readonly Row[])[];
  readonly columns: number;
  readonly height: number;
  /** For those who cannot see the picture. */
  readonly title: string;
  /** Stands above the answered pictures. */
  readonly caption: string;
  readonly answered: readonly Answered[];
}

const CELL = 8.4;
const LINE = 19;
const MARGIN = 18;
const TILE = 44;
const SECONDS = { screen: 0.6, last: 6 };

const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

function colourOf({ line }: Row): string {
  if (line.startsWith('$ ')) return '#7ee787';
  if (line.startsWith('{')) return '#e3b341';
  if (/^(held-out|answers)|exactly right/.test(line)) return '#79c0ff';
  return '#c9d1d9';
}

function screen(rows: readonly Row[], style: string): string {
  const lines = rows.map((row, i) => {
    const width = (cellsOf(row.text) * CELL).toFixed(1);
    const y = MARGIN + (i + 1) * LINE;
    return row.text === ''
      ? ''
      : `<text x="${MARGIN}" y="${y}" fill="${colourOf(row)}" textLength="${width}">${escaped(row.text)}</text>`;
  });
  return `<g${style}>${lines.join('')}</g>`;
}

/** The whole picture as the text of an SVG file. It needs no font, script or file beside it. */
export function drawSvg({ screens, columns, height, title, caption, answered }: Drawing): string {
  const width = Math.round(columns * CELL + 2 * MARGIN);
  const terminal = height * LINE + 2 * MARGIN;
  const total = SECONDS.screen * (screens.length - 1) + SECONDS.last;
  const rules = screens.map((_, i) => {
    const from = (100 * SECONDS.screen * i) / total;
    const to = i === screens.length - 1 ? 100 : (100 * SECONDS.screen * (i + 1)) / total;
    const frames =
      `@keyframes s${i}{0%,${from.toFixed(3)}%{opacity:${i === 0 ? 1 : 0}}` +
      `${(from + 0.001).toFixed(3)}%,${to.toFixed(3)}%{opacity:1}` +
      (to < 100 ? `${(to + 0.001).toFixed(3)}%,100%{opacity:0}}` : '}');
    return `${frames}#s${i}{animation:s${i} ${total}s step-end infinite}`;
  });
  const groups = screens.map((rows, i) => screen(rows, ` id="s${i}"${i === screens.length - 1 ? '' : ' opacity="0"'}`));
  const perRow = Math.floor((width - 2 * MARGIN) / (TILE + 10));
  const tiles = answered.slice(0, perRow).map(({ png, answer, right }, i) => {
    const x = MARGIN + i * (TILE + 10);
    const data = Buffer.from(png).toString('base64');
    return (
      `<image x="${x}" y="${terminal + 34}" width="${TILE}" height="${TILE}" href="data:image/png;base64,${data}"/>` +
      `<text x="${x + TILE / 2}" y="${terminal + 34 + TILE + 18}" text-anchor="middle" fill="${right ? '#1a7f37' : '#cf222e'}">${escaped(answer)}</text>`
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${terminal + TILE + 66}" viewBox="0 0 ${width} ${terminal + TILE + 66}" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,Noto Sans Mono CJK SC,monospace" font-size="14" xml:space="preserve">
<title>${escaped(title)}</title>
<style>@media (prefers-reduced-motion:no-preference){${rules.join('')}}</style>
<rect width="${width}" height="${terminal}" rx="8" fill="#0d1117"/>
${groups.join('\n')}
<text x="${MARGIN}" y="${terminal + 22}" fill="#57606a">${escaped(caption)}</text>
${tiles.join('\n')}
</svg>
`;
}
