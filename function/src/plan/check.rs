//! What OpenFunction refuses of a Function, wherever it is to run: a manifest that is right here is right in a cluster.

use evoke_api::functions::{BuildSpec, FunctionSpec, ScaleOptions};
use evoke_api::problem::{FieldPath, Problem};
use evoke_api::quantity;

/// The most instances where `maxReplicas` does not say.
const MAX_REPLICAS: i32 = 10;

/// Everything that is wrong with how the function is built and scaled.
pub(super) fn problems(spec: &FunctionSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(spec) = &spec.build {
        build(spec, &FieldPath::spec().key("build"), &mut problems);
    }
    if let Some(options) = spec.serving.as_ref().and_then(|serving| serving.scale_options.as_ref()) {
        scaling(options, &FieldPath::spec().key("serving").key("scaleOptions"), &mut problems);
    }
    problems
}

fn build(spec: &BuildSpec, path: &FieldPath, problems: &mut Vec<Problem>) {
    let is_named = |name: Option<&String>| name.is_some_and(|name| !name.is_empty());
    let source = &spec.src_repo;
    let bundle = source.bundle_container.as_ref().map(|bundle| &bundle.image);
    if !is_named(source.url.as_ref()) && !is_named(bundle) {
        let problem = Problem::error(path.key("srcRepo"), "no source is named to build from");
        problems.push(problem.hint("add the `url` of a repository, or `bundleContainer: {image: ...}`"));
    }
    if !is_named(spec.builder.as_ref()) && !is_named(spec.dockerfile.as_ref()) {
        let problem = Problem::error(path.clone(), "nothing says how to build");
        problems.push(problem.hint("add `builder`, the image of a buildpacks builder, or `dockerfile`"));
    }
    let shipwright = spec.shipwright.as_ref().and_then(|shipwright| shipwright.timeout.as_ref());
    let times = [
        (path.key("timeout"), spec.timeout.as_ref()),
        (path.key("builderMaxAge"), spec.builder_max_age.as_ref()),
        (path.key("shipwright").key("timeout"), shipwright),
    ];
    problems.extend(times.into_iter().filter_map(|(path, time)| quantity::duration(time?, &path).err()));
    let limits = [
        ("successfulBuildsHistoryLimit", spec.successful_builds_history_limit),
        ("failedBuildsHistoryLimit", spec.failed_builds_history_limit),
    ];
    counts(&limits, path, problems);
}

fn scaling(options: &ScaleOptions, path: &FieldPath, problems: &mut Vec<Problem>) {
    let (min, max) = (options.min_replicas, options.max_replicas);
    counts(&[("minReplicas", min), ("maxReplicas", max)], path, problems);
    let most = max.unwrap_or(MAX_REPLICAS);
    if let Some(min) = min.filter(|min| *min > most && most >= 0) {
        let by_default = if max.is_none() { " by default" } else { "" };
        let message = format!("{min} is more than `maxReplicas`, which is {most}{by_default}");
        problems.push(Problem::error(path.key("minReplicas"), message).hint("raise `maxReplicas`, or lower this"));
    }
    let Some(keda) = &options.keda else { return };
    let path = path.key("keda");
    let ways = [
        ("httpScaledObject", keda.http_scaled_object.is_some()),
        ("scaledObject", keda.scaled_object.is_some()),
        ("scaledJob", keda.scaled_job.is_some()),
    ];
    let ways: Vec<&str> = ways.into_iter().filter_map(|(field, is_set)| is_set.then_some(field)).collect();
    if let [first, second, ..] = ways[..] {
        let message = format!("a function is scaled in one way, and `{first}` is set as well");
        problems.push(Problem::error(path.key(second), message).hint("keep one of them"));
    }
    if let Some(job) = &keda.scaled_job {
        let limits = [
            ("successfulJobsHistoryLimit", job.successful_jobs_history_limit),
            ("failedJobsHistoryLimit", job.failed_jobs_history_limit),
        ];
        counts(&limits, &path.key("scaledJob"), problems);
    }
}

/// Refuses numbers of things that are less than none.
fn counts(fields: &[(&str, Option<i32>)], path: &FieldPath, problems: &mut Vec<Problem>) {
    for (field, count) in fields {
        if let Some(count) = count.filter(|count| *count < 0) {
            problems.push(Problem::error(path.key(*field), format!("{count} is too small")).hint("write 0 or more"));
        }
    }
}
