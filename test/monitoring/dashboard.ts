// The dashboard against Grafana's own schema, by the compiler: this file with
// the JSON in place of DASHBOARD.  An object literal may have no property that
// the schema doesn't know.
import type { Dashboard, Panel, RowPanel, VariableModel } from '@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type { Options as StatOptions } from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type { Options as TableOptions } from '@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen';
import type {
  Options as TimeSeriesOptions, FieldConfig as TimeSeriesField,
} from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';

// JSON has the values of enums, not their names.
type Json<T> = T extends string ? `${T}`
  : T extends number | boolean | null | undefined ? T
  : T extends Array<infer E> ? Array<Json<E>>
  : T extends object ? { [K in keyof T]: Json<T[K]> }
  : T;

// What @grafana/prometheus takes as a query.
interface Query {
  refId: string;
  datasource: { type: 'prometheus'; uid: string };
  expr: string;
  legendFormat: string;
  editorMode: 'code';
  format: 'time_series' | 'table';
  instant: boolean;
  range: boolean;
}

type Typed<Type extends string, Options, Field> =
  Omit<Json<Panel>, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
    type: Type;
    options: Partial<Json<Options>>;
    fieldConfig: {
      defaults: Omit<NonNullable<Json<Panel>['fieldConfig']>['defaults'], 'custom'> & { custom?: Json<Field> };
      overrides: [];
    };
    targets: Query[];
  };

type AnyPanel = Json<RowPanel>
  | Typed<'stat', StatOptions, {}>
  | Typed<'table', TableOptions, {}>
  | Typed<'timeseries', TimeSeriesOptions, TimeSeriesField>;

type Ours = Omit<Json<Dashboard>, 'panels' | 'templating'> & {
  panels: AnyPanel[];
  templating: { list: Json<VariableModel>[] };
};

export const dashboard: Ours = DASHBOARD;
