//! The shares that result from a topology, computed without a balancer.

use std::sync::Arc;

use super::{
    route::Wish,
    rules::Topology,
    traits::{RuledMember, Standing},
};
use crate::{error::ConfigError, instance::Instance};

impl Topology {
    /// Returns the share of requests with this wish that each instance gets, from 0 to 1, with a policy
    /// that uses weights. All shares are 0 when such requests fail. Instances that are critical or in
    /// maintenance count as ejected.
    ///
    /// # Errors
    /// Returns an error when a setting is out of range.
    pub fn shares(
        &self,
        instances: &[Arc<Instance>],
        wish: &Wish,
    ) -> Result<Vec<f64>, ConfigError> {
        self.check()?;
        let this = self.clone().live();
        let traits = instances.iter();
        let traits: Vec<_> = traits
            .map(|instance| this.traits(&instance.key, Some(instance)))
            .collect();
        let members = instances.iter().zip(&traits).enumerate();
        let members = members.map(|(index, (instance, traits))| RuledMember {
            index,
            traits,
            weight: instance.weight.get().into(),
            standing: if instance.status.is_serving() {
                Standing::In
            } else {
                Standing::Out
            },
        });
        let members: Vec<_> = members.collect();
        let weights: Vec<_> = members.iter().map(|member| member.weight).collect();
        let planned = this.plan(&members, this.panics(false));
        Ok(planned.plan.shares(wish, &weights))
    }
}
