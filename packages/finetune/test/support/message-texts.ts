/**
 * The texts in the sources that a person may read, found by the TypeScript compiler. Every string and template that
 * reads as English, with its holes; of constants and conditions in a template every form.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import * as ts from 'typescript/unstable/ast';
import { API, type Checker, type Project, TypeFlags } from 'typescript/unstable/sync';

/** A text as the program makes it, with a stand-in for each value that is known only then. */
export interface MessageText {
  /** `packages/…/file.ts:line`. */
  readonly place: string;
  readonly text: string;
}

const K = ts.SyntaxKind;
const MOST_FORMS = 64;

/** Stand-ins: a number, the help of a flag, and anything else. */
const NUMBER = '41';
const HELP = 'Evaluation data.';
const VALUE = '"@"';

type Expression = ts.Node;

/** All texts of the packages' sources, once each. */
export function messageTexts(
  root: string,
  packages: readonly string[],
  hasNone: (file: string) => boolean,
): MessageText[] {
  using api = Object.assign(new API({ cwd: root }), {
    [Symbol.dispose](this: API): void {
      this.close();
    },
  });
  const configs = packages.map((name) => join(root, 'packages', name, 'tsconfig.json'));
  const snapshot = api.updateSnapshot({ openProjects: configs });
  return packages.flatMap((name, i) => {
    const project = snapshot.getProject(configs[i]!)!;
    const source = join(root, 'packages', name, 'src');
    const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));
    return files.flatMap((file) => {
      const path = `packages/${name}/src/${file}`;
      return hasNone(path) ? [] : new FileTexts(project, join(source, file), path).texts;
    });
  });
}

class FileTexts {
  readonly texts: MessageText[] = [];
  readonly #checker: Checker;
  readonly #file: ts.SourceFile;
  /** Positions of initializers that are part of another text. */
  readonly #within = new Set<number>();
  readonly #found: { at: number; forms: string[] }[] = [];

  constructor(project: Project, file: string, path: string) {
    this.#checker = project.checker;
    this.#file = project.program.getSourceFile(file)!;
    this.#walk(this.#file, false);
    for (const { at, forms } of this.#found) {
      if (this.#within.has(at)) continue;
      const line = this.#file.text.slice(0, at).split('\n').length;
      for (const text of new Set(forms)) this.texts.push({ place: `${path}:${line}`, text });
    }
  }

  #walk(node: ts.Node, certain: boolean): void {
    if (isNoMessage(node)) return;
    if (isText(node)) {
      const wanted = certain ? (text: string) => !hasNoWords(text) : isEnglish;
      const forms = this.#forms(node, 0).filter(wanted);
      if (forms.length > 0) this.#found.push({ at: node.getStart(this.#file), forms });
    }
    const inside = isText(node) ? insides(node) : undefined;
    if (inside !== undefined) for (const child of inside) this.#walk(child, false);
    else node.forEachChild((child) => this.#walk(child, isMessagePlace(node, child)));
  }

  /** Every form that an expression's text may have. */
  #forms(node: Expression, depth: number): string[] {
    if (ts.isStringLiteral(node) || ts.isNoSubstitutionTemplateLiteral(node)) return [node.text];
    if (ts.isParenthesizedExpression(node) || ts.isNonNullExpression(node) || ts.isAsExpression(node)) {
      return this.#forms(node.expression, depth);
    }
    if (ts.isTemplateExpression(node)) {
      return node.templateSpans.reduce<string[]>(
        (forms, span) => product(forms, this.#forms(span.expression, depth), span.literal.text),
        [node.head.text],
      );
    }
    if (ts.isConditionalExpression(node)) {
      return [...this.#forms(node.whenTrue, depth), ...this.#forms(node.whenFalse, depth)];
    }
    if (isPlus(node)) return product(this.#forms(node.left, depth), this.#forms(node.right, depth), '');
    if (/\.help\.en$/.test(node.getText())) return [HELP];
    return this.#constant(node, depth) ?? this.#byType(node);
  }

  /** The forms of a local constant. */
  #constant(node: Expression, depth: number): string[] | undefined {
    if (!ts.isIdentifier(node) || depth > 4) return undefined;
    const declaration = this.#checker.getSymbolAtLocation(node)?.valueDeclaration?.resolve();
    if (declaration === undefined || !ts.isVariableDeclaration(declaration)) return undefined;
    const { initializer } = declaration;
    if (initializer === undefined || (declaration.parent.flags & ts.NodeFlags.Const) === 0) return undefined;
    if (declaration.getSourceFile() !== this.#file) return undefined;
    if (!isText(initializer) && !ts.isConditionalExpression(initializer)) return undefined;
    this.#cover(initializer);
    return this.#forms(initializer, depth + 1);
  }

  /** Marks the texts of an initializer as parts of the text that uses it. */
  #cover(node: Expression): void {
    if (isText(node)) this.#within.add(node.getStart(this.#file));
    else if (ts.isConditionalExpression(node)) for (const side of [node.whenTrue, node.whenFalse]) this.#cover(side);
    else if (ts.isParenthesizedExpression(node)) this.#cover(node.expression);
  }

  #byType(node: Expression): string[] {
    const type = this.#checker.getTypeAtLocation(node);
    if (type === undefined) return [VALUE];
    const types = type.isUnionType() ? type.getTypes() : [type];
    const values = types.flatMap((one) => (one.isStringLiteralType() ? [one.value] : []));
    if (values.length === types.length && values.length <= MOST_FORMS) return values;
    return [types.every((one) => one.flags & TypeFlags.NumberLike) ? NUMBER : VALUE];
  }
}

const isPlus = (node: ts.Node): node is ts.BinaryExpression =>
  ts.isBinaryExpression(node) && node.operatorToken.kind === K.PlusToken && (isText(node.left) || isText(node.right));

function isText(node: ts.Node): boolean {
  return (
    ts.isStringLiteral(node) ||
    ts.isNoSubstitutionTemplateLiteral(node) ||
    ts.isTemplateExpression(node) ||
    isPlus(node)
  );
}

/** The expressions in a text that may hold other texts; those that are the text's own forms are left out. */
function insides(node: ts.Node): ts.Node[] {
  if (ts.isTemplateExpression(node)) return node.templateSpans.flatMap((span) => operands(span.expression));
  return isPlus(node) ? [...operands(node.left), ...operands(node.right)] : [];
}

function operands(node: ts.Node): ts.Node[] {
  if (ts.isParenthesizedExpression(node)) return operands(node.expression);
  if (ts.isConditionalExpression(node)) {
    return [node.condition, ...operands(node.whenTrue), ...operands(node.whenFalse)];
  }
  return isText(node) ? insides(node) : [node];
}

/** Where a text is no message: types, imports, texts of both languages, broken invariants, comparisons. */
function isNoMessage(node: ts.Node): boolean {
  if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node) || ts.isTypeNode(node)) return true;
  if (ts.isPropertyAssignment(node) && node.name.getText() === 'examples') return true;
  if (ts.isObjectLiteralExpression(node)) return keys(node).includes('zh');
  if (ts.isCallExpression(node)) return /^(assert|example)\b/.test(node.expression.getText());
  if (!ts.isNewExpression(node)) return false;
  const name = node.expression.getText();
  return name === 'RegExp' || (name === 'Error' && !/load-failure\.ts$/.test(node.getSourceFile().fileName));
}

const keys = (node: ts.ObjectLiteralExpression): (string | undefined)[] =>
  node.properties.map((property) => ('name' in property ? property.name?.getText() : undefined));

/** Where a text is a message even if it is one word. */
function isMessagePlace(parent: ts.Node, child: ts.Node): boolean {
  if (ts.isPropertyAssignment(parent)) {
    return (
      parent.initializer === child &&
      /^(cure|label|unit|expected|received|wanted|what|reason|message)$/.test(parent.name.getText())
    );
  }
  if (!ts.isCallExpression(parent)) return false;
  const name = parent.expression.getText();
  const at = parent.arguments.indexOf(child as ts.Expression);
  return (name === 'expected' && (at === 0 || at === 1)) || (/\.task$/.test(name) && (at === 0 || at === 2));
}

/** A value, a flag, a name with underscores, a path, punctuation: what is the same in every language. */
const isNoWord = (word: string): boolean => /^(--.*|\W*|.*[_\d@/\\].*|.*\w\.\w.*|true|false|cpu|'.*')$/.test(word);

/** Whether a text has only such words, or is a list of names. */
function hasNoWords(text: string): boolean {
  const words = text.trim().split(/\s+/);
  const names = words.filter((word) => /_/.test(word)).length >= words.length / 2;
  return (names && /^[a-z0-9_ |]+$/.test(text)) || words.every(isNoWord);
}

/** Whether a text reads as English: a word of two letters or more, and a space beside it. */
function isEnglish(text: string): boolean {
  if (/^[A-Z][a-z]+\.$/.test(text)) return true;
  if (hasNoWords(text)) return false;
  return /[A-Za-z]{2,}[^\sA-Za-z]* \S|\S [A-Za-z]{2,}/.test(text);
}

function product(lefts: readonly string[], middles: readonly string[], right: string): string[] {
  const all = lefts.flatMap((left) => middles.map((middle) => `${left}${middle}${right}`));
  return all.length <= MOST_FORMS ? all : all.slice(0, MOST_FORMS);
}
