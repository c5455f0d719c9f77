/** Options of uPlot for our charts. And what is drawn over them: gaps, checkpoints, resumes. */
import type uPlot from 'uplot';
import { alignLines, type Line, type Mark } from './lines.js';
import { lineStyle } from './palette.js';

export interface Drawing {
  readonly lines: readonly Line[];
  readonly marks: readonly Mark[];
  readonly width: number;
  readonly height: number;
  readonly dark: boolean;
  readonly log: boolean;
  /** Shown part of x; null: all. */
  readonly range: readonly [number, number] | null;
  /** Charts with the same key move their cursors together. */
  readonly sync: string | undefined;
  readonly formatX: (x: number) => string;
  readonly formatTick: (y: number) => string;
  readonly onRange: (range: [number, number] | null) => void;
  readonly onCursor: (x: number | null) => void;
}

/** A series of uPlot: the values of a line, or their moving average. */
interface Stroke {
  readonly line: Line;
  readonly values: readonly (number | null)[];
  readonly raw: boolean;
}

/** Averages are drawn over all values. */
function strokesOf(lines: readonly Line[]): Stroke[] {
  const averaged = (line: Line): boolean => (line.smooth?.length ?? 0) > 0;
  return [
    ...lines.map((line) => ({ line, values: line.y, raw: averaged(line) })),
    ...lines.filter(averaged).map((line) => ({ line, values: line.smooth!, raw: false })),
  ];
}

/** The data of a chart in uPlot's form. */
export function dataOf(lines: readonly Line[], log: boolean): uPlot.AlignedData {
  const positive = (values: readonly (number | null)[]): readonly (number | null)[] =>
    log ? values.map((value) => (value !== null && value > 0 ? value : null)) : values;
  const { x, y } = alignLines(strokesOf(lines).map(({ line, values }) => [line.x, positive(values)] as const));
  return [x, ...y] as uPlot.AlignedData;
}

function seriesOf(lines: readonly Line[], dark: boolean): uPlot.Series[] {
  return strokesOf(lines).map(({ line, raw }) => {
    const { color, dash } = lineStyle(line.style, dark);
    const faint = raw || line.faint === true;
    return {
      label: line.label,
      stroke: color,
      alpha: faint ? 0.35 : 1,
      width: line.dots ? 1.5 : faint ? 1 : 1.75,
      ...(line.faint ? { dash: [3, 4] } : raw ? {} : { dash: [...dash] }),
      points: { show: line.dots === true || line.x.length === 1, size: 6, fill: color },
      spanGaps: false,
    };
  });
}

/** A cross where a value was not finite, at the height of the value before. */
function drawGaps(plot: uPlot, lines: readonly Line[], color: string): void {
  const { ctx, bbox } = plot;
  const arm = 4 * devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = color;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  for (const line of lines) {
    let before: number | null = null;
    for (let index = 0; index < line.y.length; index++) {
      const value = line.y[index]!;
      if (value !== null) {
        before = value;
        continue;
      }
      const x = plot.valToPos(line.x[index]!, 'x', true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      const height = before === null ? Number.NaN : plot.valToPos(before, 'y', true);
      const y = Number.isFinite(height) ? Math.max(height, bbox.top + arm) : bbox.top + bbox.height - 2 * arm;
      ctx.moveTo(x - arm, y - arm);
      ctx.lineTo(x + arm, y + arm);
      ctx.moveTo(x - arm, y + arm);
      ctx.lineTo(x + arm, y - arm);
    }
  }
  ctx.stroke();
  ctx.restore();
}

/** Checkpoints as triangles at the bottom, resumes as dashed lines from top to bottom. */
function drawMarks(plot: uPlot, marks: readonly Mark[], color: string): void {
  const { ctx, bbox } = plot;
  const size = 4 * devicePixelRatio;
  const bottom = bbox.top + bbox.height;
  ctx.save();
  ctx.fillStyle = ctx.strokeStyle = color;
  for (const mark of marks) {
    const x = plot.valToPos(mark.x, 'x', true);
    if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) continue;
    ctx.beginPath();
    if (mark.kind === 'checkpoint') {
      ctx.moveTo(x - size, bottom);
      ctx.lineTo(x + size, bottom);
      ctx.lineTo(x, bottom - 1.6 * size);
      ctx.fill();
    } else if (mark.kind === 'resume') {
      ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bottom);
      ctx.stroke();
    }
  }
  ctx.restore();
}

/** One axis in the colours of the theme. */
function axis(color: (name: string) => string, format: (value: number) => string, size: number): uPlot.Axis {
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  return {
    stroke: color('--soft'),
    font,
    size,
    gap: 4,
    ticks: { show: false },
    grid: { stroke: color('--line'), width: 1 },
    values: (_, splits) => splits.map((value) => (value === null ? '' : format(value))),
  };
}

/** Everything that uPlot needs to draw. */
export function optionsOf(drawing: Drawing): uPlot.Options {
  const { lines, marks, dark, log, range, sync } = drawing;
  const style = getComputedStyle(document.documentElement);
  const color = (name: string): string => style.getPropertyValue(name);
  return {
    width: drawing.width,
    height: drawing.height,
    legend: { show: false },
    padding: [10, 16, 0, 0],
    scales: {
      x: { time: false, ...(range === null ? {} : { range: () => [range[0], range[1]] as [number, number] }) },
      y: log ? { distr: 3 } : {},
    },
    axes: [
      { ...axis(color, drawing.formatX, 20), space: 70 },
      { ...axis(color, drawing.formatTick, 54), space: 34 },
    ],
    series: [{}, ...seriesOf(lines, dark)],
    cursor: {
      drag: { x: true, y: false, setScale: false },
      points: { size: 6 },
      y: false,
      bind: {
        dblclick: () => () => {
          drawing.onRange(null);
          return null;
        },
      },
      ...(sync === undefined ? {} : { sync: { key: sync } }),
    },
    hooks: {
      draw: [(plot) => drawMarks(plot, marks, color('--soft')), (plot) => drawGaps(plot, lines, color('--bad'))],
      setCursor: [
        (plot) => {
          const index = plot.cursor.idx;
          drawing.onCursor(index === null || index === undefined ? null : (plot.data[0][index] ?? null));
        },
      ],
      setSelect: [
        (plot) => {
          const { left, width } = plot.select;
          if (width < 4) return;
          drawing.onRange([plot.posToVal(left, 'x'), plot.posToVal(left + width, 'x')]);
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
    },
  };
}
