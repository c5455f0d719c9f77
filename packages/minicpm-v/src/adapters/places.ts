/** Where adapters are, in numbers and in words. Parts of the model, and how many of their layers. */
import { partPath } from '@minicpm-finetune/processor';
import { Linear, type Module } from '@minicpm-finetune/torch';

/** The adapters of one part of the model. */
export interface AdapterPlace {
  /** The part's path in the checkpoint, such as `llm`, `vpm` or `model.merger`. */
  readonly part: string;
  /** Layers with adapters, and layers that the part has; 0 where adapters lie outside of layers. */
  readonly layers: number;
  readonly of: number;
  /** Linear layers with an adapter. */
  readonly modules: number;
  /** The same by the last part of the module's name: how many layers have an adapter there. */
  readonly names: Readonly<Record<string, number>>;
}

/** Where the modules `targets` of a model are, by part, in the model's order. */
export function adapterPlaces(model: Module, targets: readonly string[]): AdapterPlace[] {
  const linears = [...model.namedModules()].filter(([, module]) => module instanceof Linear).map(([name]) => name);
  const parts = [...new Set(targets.map(partPath))];
  return parts.map((part) => {
    const own = targets.filter((name) => partPath(name) === part);
    const names: Record<string, number> = {};
    for (const name of own) names[lastPart(name)] = (names[lastPart(name)] ?? 0) + 1;
    return {
      part,
      layers: layersOf(own).size,
      of: layersOf(linears.filter((name) => partPath(name) === part)).size,
      modules: own.length,
      names,
    };
  });
}

/** In words: `llm 2 layers × 2, vpm 3 layers × 2`; a name that is in some layers and not in others is written by itself. */
export function describePlaces(places: readonly AdapterPlace[]): string {
  return places.map(describePlace).join(', ');
}

function describePlace({ part, layers, of, names }: AdapterPlace): string {
  const counted = (count: number): string =>
    `${count === of ? count : `${count} of ${of}`} ${of === 1 ? 'layer' : 'layers'}`;
  const entries = Object.entries(names);
  if (layers === 0) return `${part} ${entries.map(([name]) => name).join(' ')}`;
  if (entries.every(([, count]) => count === layers)) return `${part} ${counted(layers)} × ${entries.length}`;
  const counts = [...new Set(entries.map(([, count]) => count))];
  const groups = counts.map((count) => {
    const own = entries.filter((entry) => entry[1] === count).map(([name]) => name);
    return `${own.join(' ')} in ${counted(count)}`;
  });
  return `${part} ${groups.join(' and ')}`;
}

const lastPart = (name: string): string => name.slice(name.lastIndexOf('.') + 1);

/** The layers that modules lie in, by the beginning of their names. */
function layersOf(names: readonly string[]): Set<string> {
  return new Set(names.map((name) => /^.*?\.[^.]*\.\d+(?=\.)/.exec(name)?.[0]).filter((layer) => layer !== undefined));
}
