//! Who shares instances, and what is counted.

use super::*;

#[test]
fn chains_share_an_instance_per_plugin_and_configuration() {
    let mut instances = Instances::new();
    let plugin = plan([&fragile()]);
    let mut other = plugin.clone();
    other.links[0].config = r#"{"a":1}"#.into();

    let chains = [&plugin, &plugin, &other].map(|plan| instances.chain(plan).unwrap());
    assert_eq!(instances.stats()[0].instances, 2);
    drop(chains);

    let stats = &instances.stats()[0];
    assert_eq!((stats.instances, stats.memory_bytes), (0, 0), "memory goes back");
}

#[test]
fn calls_are_counted_over_generations() {
    let mut instances = Instances::new();
    let old = instances.chain(&plan([&fragile()])).unwrap();
    down(&old, request(&[]));
    let new = instances.chain(&plan([&setter("x-new", "1")])).unwrap();
    drop(old);

    down(&new, request(&[]));

    let stats = instances.stats();
    assert_eq!(stats.len(), 1);
    assert_eq!(stats[0].hooks[0].calls[0], 2);
    assert_eq!(stats[0].instances, 1);
    assert!(stats[0].hooks[0].duration_ns_sum > 0);
}

/// A slow `init` must not keep a worker's requests waiting.
#[test]
fn an_instance_made_on_another_thread_is_taken_in_and_not_made_again() {
    let mut instances = Instances::new();
    let plan = plan([&setter("x-warm", "1")]);
    let PlanSource::Wasm(plugin) = &plan.links[0].plugin else { panic!("not wasm") };
    let (made, config) = (Arc::clone(plugin), Arc::clone(&plan.links[0].config));
    let warm = std::thread::spawn(move || made.warm(&config).unwrap()).join().unwrap();

    instances.take_in(vec![warm]);
    let chain = instances.chain(&plan).unwrap();
    instances.take_in(Vec::new());

    let (exchange, _) = down(&chain, request(&[]));
    assert_eq!(exchange.request.fields.get("x-warm"), Some(b"1".as_slice()));
    assert_eq!(instances.stats()[0].generations, [(plugin.generation(), 1)]);
}
